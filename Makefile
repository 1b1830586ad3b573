# Everything starts here; `make` alone prints the help. Each target does its own set-up.

PAPERS   := $(patsubst %/paper.mk,%,$(wildcard */paper.mk))
VENV     := .venv
RUN      := $(VENV)/bin/python
# The environment's own Python where there is one, so that a set-up that is repeated keeps it.
PYTHON   ?= $(or $(wildcard $(RUN)),$(shell for python in python3.11 python3.12 python3.13; do \
                $$python -c "" 2>/dev/null && echo $$python && break; done),python3)
# Which Paddle the environment holds, of gpu and cpu; PADDLE is the one to have.
dist-info = $(wildcard $(VENV)/lib/python3*/site-packages/$(1)-*.dist-info)
PRESENT  := $(if $(call dist-info,paddlepaddle_gpu),gpu) $(if $(call dist-info,paddlepaddle),cpu)
PADDLE   ?= $(or $(firstword $(PRESENT)),cpu)
PIP_ARGS ?=
EXTRAS   ?= align,export,dev

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
	@echo "make setup              the environment in $(VENV); anew when pyproject.toml changes, or PADDLE or PYTHON is another"
	@echo "make lint | clean       ruff alone | remove what was made (not $(VENV))"
	@echo
	@echo "Variables: DATA=folder  WEIGHTS=file or checkpoint folder  IMAGES=picture or folder  OUT=output folder"
	@echo "           ARGS='further options of the script'  GPUS=0,1 (training)  CPUS=2 (training, processes)"
	@echo "           GOLDEN=folder with the full golden files (test)  JOBS=papers aligned at once ($(JOBS))"
	@echo "           PADDLE=$(PADDLE) (setup: cpu or gpu)  PYTHON=$(PYTHON)  PIP_ARGS='options of pip'"

# ------------------------------------------------------------------------------------------------------------- set-up

STAMP := $(VENV)/.ready
setup: $(STAMP)

# Of the packages' modules only those that are used are compiled (to bytecode): half a minute less than all of them.
USED := paddle paddle.distributed.launch paddle.inference torch torch._dynamo visualdl matplotlib.pyplot cv2 \
    scipy.optimize PIL.Image pycocotools.cocoeval onnx onnxruntime paddle2onnx pytest hypothesis xdist.remote
IMPORT := import importlib, importlib.util as u, sys; \
    [importlib.import_module(name) for name in sys.argv[1:] if u.find_spec(name.partition(".")[0])]

# What the environment has and was not asked for: another version than the PYTHON that is given, another Paddle.
version      = $(shell $(1) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null)
OTHER_PYTHON := $(if $(filter file,$(origin PYTHON)),,$(if $(wildcard $(RUN)),$(filter-out \
                    $(call version,$(PYTHON)),$(or $(call version,$(RUN)),none))))
OTHER_PADDLE := $(filter-out $(PADDLE),$(PRESENT))
comma        := ,
PIP          := $(RUN) -m pip --quiet --disable-pip-version-check

# Both wheels of Paddle install the package `paddle`. So the other one is removed before, once it is certain that the
# one asked for can be had.
$(STAMP): pyproject.toml $(if $(OTHER_PYTHON)$(OTHER_PADDLE),change)
	$(if $(filter cpu gpu,$(PADDLE)),,$(error PADDLE=$(PADDLE): give cpu or gpu))
	$(if $(filter 3.11 3.12 3.13,$(call version,$(PYTHON))),,$(error \
	    PYTHON=$(PYTHON) is not Python 3.11, 3.12 or 3.13; name one: make setup PYTHON=/usr/bin/python3.12))
	$(if $(OTHER_PYTHON),$(PYTHON) -m venv --clear $(VENV),test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV))
	$(if $(OTHER_PADDLE),$(PIP) install --dry-run $(PIP_ARGS) '.[$(PADDLE)]')
	$(if $(OTHER_PADDLE),rm -f $@; $(PIP) uninstall --yes $(patsubst gpu,paddlepaddle-gpu,$(PRESENT:cpu=paddlepaddle)))
	$(PIP) install --no-compile $(PIP_ARGS) --editable '.[$(PADDLE)$(addprefix $(comma),$(EXTRAS))]'
	@env -u PYTHONDONTWRITEBYTECODE $(RUN) -W ignore -c '$(IMPORT)' $(USED) >/dev/null
	touch $@

.PHONY: change

# ---------------------------------------------------------------------------------------------------- targets by paper

# PAPER/paper.mk says how the paper trains on its mini data, in these variables:
#   MINI             options of train.py
#   MINI_CPUS        processes on the CPU, unless GPUS or CPUS say otherwise (Paddle's dygraph uses one core of each); empty: 1
#   MINI_EVALUATION  further options of evaluate.py
#   MINI_CHECKPOINT  the checkpoint that is evaluated, shown and exported: best (when empty) or latest
#   MINI_IMAGES      pictures of the demo, within PAPER/data/mini
RECIPE := MINI MINI_CPUS MINI_EVALUATION MINI_CHECKPOINT MINI_IMAGES
$(foreach paper,$(PAPERS), \
    $(foreach name,$(RECIPE),$(eval $(name) :=)) \
    $(eval include $(paper)/paper.mk) \
    $(foreach name,$(RECIPE),$(eval $(paper)_$(name) := $$($(name)))))

# $(call option,--name,value): nothing when the value is empty
option = $(if $(2),$(1) '$(2)')
# several processes: GPUS=0,1, or CPUS=2 on the CPU
LAUNCHER = -m paddle.distributed.launch --log_dir build/launch
# $(call trained,PAPER): the weights trained on the mini data
trained = $(1)/output/mini/$(or $($(1)_MINI_CHECKPOINT),best)
# $(call launch,processes of the mini training): nothing for one process
launch = $(if $(GPUS),$(LAUNCHER) --devices $(GPUS),$(if $(or $(CPUS),$(1)),$(LAUNCHER) --nproc_per_node $(or $(CPUS),$(1))))

define PAPER_TARGETS
.PHONY: data-$(1) align-$(1) train-$(1) evaluate-$(1) demo-$(1) export-$(1) benchmark-$(1) test-$(1)

data-$(1): $(STAMP)
	$(RUN) $(1)/draw_mini.py $$(call option,--output_dir,$$(OUT)) $$(ARGS)

align-$(1): $(STAMP)
	$(RUN) $(1)/align.py $$(call option,--data_path,$$(DATA)) $$(call option,--weights,$$(WEIGHTS)) \
	    $$(call option,--output_dir,$$(OUT)) $$(ARGS)

train-$(1): $(STAMP) $$(if $$(DATA),,$(1)/data/mini/mini.json)
	$(RUN) $$(call launch,$$(if $$(DATA),,$$($(1)_MINI_CPUS))) $(1)/train.py \
	    --data_path '$$(or $$(DATA),$(1)/data/mini)' $$(if $$(DATA),,$$($(1)_MINI)) \
	    --output_dir '$$(or $$(OUT),$(1)/output/$$(if $$(DATA),train,mini))' $$(if $$(GPUS),--device gpu) $$(ARGS)

evaluate-$(1): $(STAMP) $$(if $$(DATA),,$(1)/data/mini/mini.json) $$(if $$(WEIGHTS),,$$(call trained,$(1))/state.json)
	$(RUN) $(1)/evaluate.py --weights '$$(or $$(WEIGHTS),$$(call trained,$(1)))' \
	    --data_path '$$(or $$(DATA),$(1)/data/mini)' $$(if $$(DATA),,$$($(1)_MINI_EVALUATION)) \
	    $$(call option,--output,$$(OUT)) $$(ARGS)

demo-$(1): $(STAMP) $$(if $$(IMAGES),,$(1)/data/mini/mini.json) $$(if $$(WEIGHTS),,$$(call trained,$(1))/state.json)
	$(RUN) $(1)/demo.py --weights '$$(or $$(WEIGHTS),$$(call trained,$(1)))' \
	    --image_path '$$(or $$(IMAGES),$(1)/data/mini/$$($(1)_MINI_IMAGES))' --output_dir '$$(or $$(OUT),$(1)/output/demo)' $$(ARGS)

export-$(1): $(STAMP) $$(if $$(WEIGHTS),,$$(call trained,$(1))/state.json)
	$(RUN) $(1)/export.py --weights '$$(or $$(WEIGHTS),$$(call trained,$(1)))' \
	    --output_dir '$$(or $$(OUT),$(1)/output/export)' $$(ARGS)

benchmark-$(1): $(STAMP)
	$(RUN) $(1)/benchmark.py $$(ARGS)

test-$(1): $(STAMP)
	$$(TESTS) $(1)/tests $$(ARGS)

$(1)/data/mini/mini.json: | $(STAMP)
	$(RUN) $(1)/draw_mini.py

$$(call trained,$(1))/state.json: | $(STAMP)
	$(MAKE) train-$(1) DATA= OUT= ARGS= WEIGHTS=
endef
$(foreach paper,$(PAPERS),$(eval $(call PAPER_TARGETS,$(paper))))

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
