"""KITTI's object evaluation: 2D, orientation (AOS), bird's-eye view and 3D; AP11 and AP40 (NOTES 7.4 to 7.11)."""
