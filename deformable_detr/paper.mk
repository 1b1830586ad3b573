# How `make train-deformable_detr` trains on the mini data, and what follows it; the Makefile of the root explains each.
MINI := --backbone resnet18 --backbone_norm batch --pretrain_path scratch --hidden_dim 128 --dim_feedforward 256 --nheads 4 \
    --enc_layers 2 --dec_layers 3 --num_queries 40 --with_box_refine --dropout 0 --scales 112 128 144 --val_size 128 \
    --max_size 192 --crop_sides 136 152 --crop_range 112 152 --batch_size 4 --num_workers 0 --lr 4e-4 \
    --lr_backbone 4e-4 --lr_linear_proj_mult 0.3 --epochs 20 --lr_drop 16 --eval_frequency 4 --log_frequency 25 --seed 1
MINI_IMAGES := val2017
