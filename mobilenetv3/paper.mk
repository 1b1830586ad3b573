# How `make train-mobilenetv3` trains on the mini data, and what follows it; the Makefile of the root explains each.
MINI := --num_classes 10 --width_mult 0.5 --train_crop_size 64 --val_resize_size 80 --val_crop_size 64 --workers 1 \
    --batch_size 16 --epochs 20 --eval_freq 4 --lr 0.03 --lr_scheduler cosineannealinglr --print_freq 25
MINI_IMAGES := val/mug
