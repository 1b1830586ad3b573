"""The drawn mini data set: drives through streets in KITTI's layouts. Imports neither Paddle nor the network."""
