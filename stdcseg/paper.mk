# How `make train-stdcseg` trains on the mini data, and what follows it; the Makefile of the root explains each.
MINI := --base 32 --use_boundary_8 true --n_img_per_gpu 4 --n_workers_train 1 --crop_size 256 128 --scales 0.5 \
    --colour_jitter 0.2 --max_iter 460 --warmup_steps 20 --warmup_start_lr 1e-3 --lr 0.015 --train_backbone_norms \
    --val_scales 0.5 --save_iter_sep 115 --msg_iter 20
MINI_CPUS := 2
MINI_IMAGES := leftImg8bit/val/stiftingen
