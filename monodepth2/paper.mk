# How `make train-monodepth2` trains on the mini data, and what follows it; the Makefile of the root explains each.
MINI := --split mini --use_stereo --pose_model_type posecnn --weights_init scratch --height 64 --width 128 \
    --min_depth 0.6 --max_depth 20 --batch_size 4 --learning_rate 5e-4 --num_epochs 12 --scheduler_step_size 10 \
    --num_workers 1 --log_frequency 20
MINI_CPUS := 2
MINI_EVALUATION := --eval_split mini
# as in the reference, the last checkpoint counts, not the best by validation
MINI_CHECKPOINT := latest
MINI_IMAGES := 2026_05_02/2026_05_02_drive_0012_sync/image_02/data
