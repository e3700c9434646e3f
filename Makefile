# Two commands for a fresh machine: `make demo` and `make test`. Both want Python 3.10-3.13.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
DEMO := demo

.PHONY: demo test clean

demo: $(VENV)/installed
	$(RUN) -m deeplab_tf.datasets.build --dataset=shapes --data_dir=$(DEMO)/records
	$(RUN) -m deeplab_tf.train --flagfile=configs/shapes_v3plus_mobilenet_v2.flagfile \
	    --data_dir=$(DEMO)/records --run_dir=$(DEMO)/run
	$(RUN) -m deeplab_tf.eval --run_dir=$(DEMO)/run
	$(RUN) -m deeplab_tf.export.savedmodel --run_dir=$(DEMO)/run --output_dir=$(DEMO)/savedmodel
	$(RUN) -m deeplab_tf.datasets.shapes.draw --output_dir=$(DEMO)/pictures --num_pictures=12
	$(RUN) -m deeplab_tf.predict --run_dir=$(DEMO)/run --images='$(DEMO)/pictures/*.jpg' \
	    --output_dir=$(DEMO)/predictions
	@echo "The pictures are in $(DEMO)/predictions; start with $(DEMO)/predictions/overview.png"

test: $(VENV)/installed-test
	$(RUN) -m pytest

$(VENV)/installed: setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(RUN) -m pip install --quiet '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(DEMO) build *.egg-info
