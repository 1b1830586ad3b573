"""The drawn mini data set: ten classes of ray-traced objects. Imports neither Paddle nor the network."""
