"""The drawn mini data set: street scenes in Cityscapes' layout. Imports neither Paddle nor the network."""
