# `make demo` and `make test` run on a fresh machine; `make check` lints and checks types. `make
# demo-photos PHOTOS=FOLDER` labels your photos with released weights, which it downloads. They need
# Python 3.10 to 3.13; `make demo PYTHON=python3.12` chooses one.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo
PHOTO_WEIGHTS := mobilenetv2_dm05_coco_voc_trainaug

.PHONY: demo demo-photos photos-given test check format docs bench clean

demo: $(VENV)/installed
	$(RUN) -m deeplab_tf.datasets.build --dataset=shapes --data_dir=$(DEMO)/records
	$(RUN) -m deeplab_tf.train --flagfile=configs/shapes_v3plus_mobilenet_v2.flagfile \
	    --data_dir=$(DEMO)/records --run_dir=$(DEMO)/run
	$(RUN) -m deeplab_tf.eval --run_dir=$(DEMO)/run
	$(RUN) -m deeplab_tf.export.savedmodel --run_dir=$(DEMO)/run --output_dir=$(DEMO)/savedmodel \
	    --serving_size=161,177
	$(RUN) -m deeplab_tf.datasets.shapes.draw --output_dir=$(DEMO)/images
	$(RUN) -m deeplab_tf.predict --run_dir=$(DEMO)/run --images=$(DEMO)/images \
	    --output_dir=$(DEMO)/predictions
	@echo
	@echo "What the model sees in images that it did not train on: $(DEMO)/predictions/overview.png"
	@echo "How it learned: $(VENV)/bin/tensorboard --logdir=$(DEMO)/run"

demo-photos: photos-given $(VENV)/installed
	$(RUN) -m deeplab_tf.predict --weights=$(PHOTO_WEIGHTS) --images="$(PHOTOS)" \
	    --output_dir=$(DEMO)/photos
	@echo
	@echo "What the model sees in your photos: $(DEMO)/photos/overview.png"

photos-given:
	@test -e "$(PHOTOS)" || \
	    { echo "Give a folder of photos: make demo-photos PHOTOS=FOLDER"; exit 1; }

test: $(VENV)/installed-for-tests
	$(RUN) -m pytest -n 2 --dist=loadfile

check: $(VENV)/installed-for-tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/installed-for-tests
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

docs: $(VENV)/installed-for-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --quiet -f docs/site/mkdocs.yml
	@echo "To read the site, with search: python3 -m http.server --directory build/site"

# Below 20 minutes; nothing else should run on the machine.
bench: $(VENV)/installed-for-tests
	$(RUN) benchmarks/refresh.py

$(RUN):
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip

$(VENV)/installed: setup.py pyproject.toml | $(RUN)
	$(RUN) -m pip install '.[fast,serving]'
	touch $@

$(VENV)/installed-for-tests: setup.py pyproject.toml | $(RUN)
	$(RUN) -m pip install '.[test,lint]'
	touch $@

$(VENV)/installed-for-docs: setup.py pyproject.toml | $(RUN)
	$(RUN) -m pip install '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
