# How `make train-gupnet` trains on the mini data, and what follows it; the Makefile of the root explains each.
MINI := --input_size 224 64 --batch_size 4 --num_workers 0 --max_epoch 30 --lr 1e-3 --weight_decay 0 --warmup no \
    --decay_list 22 27 --random_crop 0 --eval_frequency 10 --save_frequency 100 --threshold 0.05 --disp_frequency 10
MINI_IMAGES := testing/image_2
