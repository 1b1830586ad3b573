"""The drawn mini data set: streets and meadows in COCO's layout. Imports neither Paddle nor the network."""
