# Everything starts here; `make` alone prints the help. Each target does its own set-up.

PAPERS   := $(foreach paper,mobilenetv3 stdcseg monodepth2 gupnet deformable_detr,$(if $(wildcard $(paper)/train.py),$(paper)))
PYTHON   ?= $(shell command -v python3.11 || echo python3)
PIP_ARGS ?=
EXTRAS   ?= align,export,dev
VENV     := .venv
RUN      := $(VENV)/bin/python

# Variables of the targets; empty ones fall back to the paper's mini data set and the weights trained on it.
DATA    ?=
WEIGHTS ?=
IMAGES  ?=
OUT     ?=
ARGS    ?=
GPUS    ?=
CPUS    ?=
GOLDEN  ?=
# an alignment runs two processes, one a framework
JOBS    ?= $(shell cores=$$(nproc 2>/dev/null || echo 2); echo $$((cores < 4 ? 1 : cores / 2)))

.DEFAULT_GOAL := help
.PHONY: help setup align report train evaluate demo export benchmark data test test-shared lint clean

help:
	@echo "make align              the seven alignment stages of every paper, on mini data drawn here (the main job)"
	@echo "make test               every test, and ruff"
	@echo "make report             one page on all of it: build/report.html and build/report.md"
	@echo "make train|evaluate|demo|export|benchmark|data      the same for every paper in turn"
	@echo
	@echo "make TARGET-PAPER, with PAPER one of: $(PAPERS)"
	@echo "  data-PAPER            draw the mini data set"
	@echo "  align-PAPER           compare with torch, stage by stage"
	@echo "  train-PAPER           train (on mini data unless DATA is given)"
	@echo "  evaluate-PAPER        the paper's metric"
	@echo "  demo-PAPER            pictures in, pictures out"
	@echo "  export-PAPER          Paddle Inference and ONNX"
	@echo "  benchmark-PAPER       speed and memory beside torch"
	@echo "  test-PAPER            its tests"
	@echo "make setup              the environment in $(VENV); rebuilt only when pyproject.toml changes"
	@echo "make lint | clean       ruff alone | remove what was made (not $(VENV))"
	@echo
	@echo "Variables: DATA=folder  WEIGHTS=file or checkpoint folder  IMAGES=picture or folder  OUT=output folder"
	@echo "           ARGS='further options of the script'  GPUS=0,1 (training)  CPUS=2 (training, processes)"
	@echo "           GOLDEN=folder with the full golden files (test)  JOBS=papers aligned at once ($(JOBS))"
	@echo "           PYTHON=$(PYTHON)  PIP_ARGS='options of pip'"

# ------------------------------------------------------------------------------------------------------------- set-up

STAMP := $(VENV)/.ready
setup: $(STAMP)

# Of the packages' modules only those that are used are compiled (to bytecode): half a minute less than all of them.
USED := paddle paddle.distributed.launch paddle.inference torch torch._dynamo visualdl matplotlib.pyplot cv2 \
    scipy.optimize PIL.Image pycocotools.cocoeval onnx onnxruntime paddle2onnx pytest hypothesis xdist.remote
IMPORT := import importlib, importlib.util as u, sys; \
    [importlib.import_module(name) for name in sys.argv[1:] if u.find_spec(name.partition(".")[0])]

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --no-compile --disable-pip-version-check $(PIP_ARGS) --editable '.[$(EXTRAS)]'
	@env -u PYTHONDONTWRITEBYTECODE $(RUN) -W ignore -c '$(IMPORT)' $(USED) >/dev/null
	touch $@

# ---------------------------------------------------------------------------------------------------- targets by paper

# How `make train-PAPER` trains on the mini data; the same options stand in each README.
MINI_mobilenetv3 := --num_classes 10 --width_mult 0.5 --train_crop_size 64 --val_resize_size 80 --val_crop_size 64 \
    --workers 1 --batch_size 16 --epochs 20 --eval_freq 4 --lr 0.03 --lr_scheduler cosineannealinglr --print_freq 25
MINI_stdcseg := --base 32 --use_boundary_8 true --n_img_per_gpu 4 --n_workers_train 1 --crop_size 256 128 --scales 0.5 \
    --colour_jitter 0.2 --max_iter 460 --warmup_steps 20 --warmup_start_lr 1e-3 --lr 0.015 --train_backbone_norms \
    --val_scales 0.5 --save_iter_sep 115 --msg_iter 20
MINI_monodepth2 := --split mini --use_stereo --pose_model_type posecnn --weights_init scratch --height 64 --width 128 \
    --min_depth 0.6 --max_depth 20 --batch_size 4 --learning_rate 5e-4 --num_epochs 12 --scheduler_step_size 10 \
    --num_workers 1 --log_frequency 20
MINI_gupnet := --input_size 224 64 --batch_size 4 --num_workers 0 --max_epoch 30 --lr 1e-3 --weight_decay 0 --warmup no \
    --decay_list 22 27 --random_crop 0 --eval_frequency 10 --save_frequency 100 --threshold 0.05 --disp_frequency 10
MINI_deformable_detr := --backbone resnet18 --backbone_norm batch --pretrain_path scratch --hidden_dim 128 \
    --dim_feedforward 256 --nheads 4 --enc_layers 2 --dec_layers 3 --num_queries 40 --with_box_refine --dropout 0 \
    --scales 112 128 144 --val_size 128 --max_size 192 --crop_sides 136 152 --crop_range 112 152 --batch_size 4 \
    --num_workers 0 --lr 4e-4 --lr_backbone 4e-4 --lr_linear_proj_mult 0.3 --epochs 20 --lr_drop 16 --eval_frequency 4 \
    --log_frequency 25 --seed 1
# Processes of that training on the CPU (Paddle's dygraph uses one core of each), unless GPUS or CPUS say otherwise.
MINI_CPUS_stdcseg := 2
MINI_CPUS_monodepth2 := 2
MINI_EVALUATION_monodepth2 := --eval_split mini
# Which checkpoint of that training counts, when not the best by validation: the last one, as in the reference.
MINI_CHECKPOINT_monodepth2 := latest

# $(call option,--name,value): nothing when the value is empty
option = $(if $(2),$(1) '$(2)')
# several processes: GPUS=0,1, or CPUS=2 on the CPU
LAUNCHER = -m paddle.distributed.launch --log_dir build/launch
# $(call trained,PAPER): the weights trained on the mini data
trained = $(1)/output/mini/$(or $(MINI_CHECKPOINT_$(1)),best)
# $(call launch,processes of the mini training): nothing for one process
launch = $(if $(GPUS),$(LAUNCHER) --devices $(GPUS),$(if $(or $(CPUS),$(1)),$(LAUNCHER) --nproc_per_node $(or $(CPUS),$(1))))

define PAPER_TARGETS
.PHONY: data-$(1) align-$(1) train-$(1) evaluate-$(1) demo-$(1) export-$(1) benchmark-$(1) test-$(1)

data-$(1): $(STAMP)
	$(RUN) $(1)/datasets/mini.py $$(call option,--output_dir,$$(OUT)) $$(ARGS)

align-$(1): $(STAMP)
	$(RUN) $(1)/align.py $$(call option,--data_path,$$(DATA)) $$(call option,--weights,$$(WEIGHTS)) \
	    $$(call option,--output_dir,$$(OUT)) $$(ARGS)

train-$(1): $(STAMP) $$(if $$(DATA),,$(1)/data/mini/mini.json)
	$(RUN) $$(call launch,$$(if $$(DATA),,$$(MINI_CPUS_$(1)))) $(1)/train.py \
	    --data_path '$$(or $$(DATA),$(1)/data/mini)' $$(if $$(DATA),,$$(MINI_$(1))) \
	    --output_dir '$$(or $$(OUT),$(1)/output/$$(if $$(DATA),train,mini))' $$(if $$(GPUS),--device gpu) $$(ARGS)

evaluate-$(1): $(STAMP) $$(if $$(DATA),,$(1)/data/mini/mini.json) $$(if $$(WEIGHTS),,$$(call trained,$(1))/state.json)
	$(RUN) $(1)/evaluate.py --weights '$$(or $$(WEIGHTS),$$(call trained,$(1)))' \
	    --data_path '$$(or $$(DATA),$(1)/data/mini)' $$(if $$(DATA),,$$(MINI_EVALUATION_$(1))) \
	    $$(call option,--output,$$(OUT)) $$(ARGS)

demo-$(1): $(STAMP) $$(if $$(IMAGES),,$(1)/data/mini/mini.json) $$(if $$(WEIGHTS),,$$(call trained,$(1))/state.json)
	$(RUN) $(1)/demo.py --weights '$$(or $$(WEIGHTS),$$(call trained,$(1)))' \
	    --image_path '$$(or $$(IMAGES),$$(MINI_IMAGES_$(1)))' --output_dir '$$(or $$(OUT),$(1)/output/demo)' $$(ARGS)

export-$(1): $(STAMP) $$(if $$(WEIGHTS),,$$(call trained,$(1))/state.json)
	$(RUN) $(1)/export.py --weights '$$(or $$(WEIGHTS),$$(call trained,$(1)))' \
	    --output_dir '$$(or $$(OUT),$(1)/output/export)' $$(ARGS)

benchmark-$(1): $(STAMP)
	$(RUN) $(1)/benchmark.py $$(ARGS)

test-$(1): $(STAMP)
	$$(TESTS) $(1)/tests $$(ARGS)

$(1)/data/mini/mini.json: | $(STAMP)
	$(RUN) $(1)/datasets/mini.py

$$(call trained,$(1))/state.json: | $(STAMP)
	$(MAKE) train-$(1) DATA= OUT= ARGS= WEIGHTS=
endef
$(foreach paper,$(PAPERS),$(eval $(call PAPER_TARGETS,$(paper))))

MINI_IMAGES_mobilenetv3 := mobilenetv3/data/mini/val/mug
MINI_IMAGES_stdcseg := stdcseg/data/mini/leftImg8bit/val/stiftingen
MINI_IMAGES_gupnet := gupnet/data/mini/testing/image_2
MINI_IMAGES_deformable_detr := deformable_detr/data/mini/val2017
MINI_IMAGES_monodepth2 := monodepth2/data/mini/2026_05_02/2026_05_02_drive_0012_sync/image_02/data

# --------------------------------------------------------------------------------------------------------- all papers

# A paper that fails does not keep the others from running; the table at the end says which it was.
align: $(STAMP)
	@rm -f $(PAPERS:%=%/result/align.json)
	@$(MAKE) --no-print-directory --keep-going -j$(JOBS) $(PAPERS:%=align-%) || true
	@echo && $(RUN) -m shared.report --table $(PAPERS)

report: $(STAMP)
	$(RUN) -m shared.report $(PAPERS)

train evaluate demo export benchmark data: %: $(STAMP)
	@$(foreach paper,$(PAPERS),echo "== $@-$(paper)" && $(MAKE) --no-print-directory $@-$(paper) &&) true

# -------------------------------------------------------------------------------------------------------------- tests

# Each folder has modules of the same names: one pytest a folder. One thread a process: the figures do not depend on it.
TESTS = OMP_NUM_THREADS=1 $(if $(GOLDEN),GOLDEN='$(abspath $(GOLDEN))') $(RUN) -m pytest -n auto --dist worksteal

test: lint test-shared $(addprefix test-,$(PAPERS))

test-shared: $(STAMP)
	$(TESTS) shared/tests

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

clean:
	rm -rf build $(foreach paper,$(PAPERS),$(paper)/data $(paper)/output $(paper)/result)
