"""The drawn mini data set: streets in the layout of KITTI's object set. Imports neither Paddle nor the network."""
