# make demo     everything on this machine, phantom radiographs through it, results in a demo PACS
# make test     all tests
# make faults   the whole system, broken at random while studies arrive: FAULTS_STUDIES, FAULTS_SEED,
#               FAULTS_DATABASE (sqlite or postgresql), FAULTS_TABLE (a document that the table is written into)
# make faults-control   the same kills against plain Celery, which loses studies
# make hostile  the whole system, besieged by hostile senders: HOSTILE_PDUS, HOSTILE_SEED
# make evaluate the shipped network on the held-out radiographs in DATA: are the figures those of its card?
# make check    format, lint, types
# make clean    remove what these made; hilum-data, where studies are, stays

PYTHON ?= $(firstword $(foreach name,python3.14 python3.13 python3.12 python3.11 python3,\
	$(shell $(name) -c 'import sys, venv, ensurepip; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
VENV := .venv
IN_VENV := $(VENV)/bin
STUDIES ?=
DATA ?= ../shared/data/cxr
FAULTS_STUDIES ?= 2000
FAULTS_SEED ?= 1
FAULTS_DATABASE ?= sqlite
FAULTS_TABLE ?=
HOSTILE_PDUS ?= 10000
HOSTILE_SEED ?= 1

.PHONY: demo test faults faults-control hostile evaluate check clean

demo: $(VENV)/.base
	$(IN_VENV)/hilum demo $(if $(STUDIES),--studies "$(STUDIES)")

# files of long tests come first in the alphabet: reordered, they would be the last to end
test: $(VENV)/.test
	$(IN_VENV)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

faults faults-control: $(VENV)/.test
	FAULTS_STUDIES=$(FAULTS_STUDIES) FAULTS_SEED=$(FAULTS_SEED) FAULTS_DATABASE=$(FAULTS_DATABASE) \
	$(IN_VENV)/python -m tests.faults $(if $(FAULTS_TABLE),--table "$(FAULTS_TABLE)") \
	$(if $(filter faults-control,$@),--control)

hostile: $(VENV)/.test
	$(IN_VENV)/python -m tests.hostile --pdus $(HOSTILE_PDUS) --seed $(HOSTILE_SEED)

evaluate: $(VENV)/.test
	@test -f "$(DATA)/manifest.csv" || { echo "There are no radiographs at $(DATA): name the folder of the \
	collection that the network's card describes, with its manifest.csv: make evaluate DATA=folder" >&2; exit 1; }
	@mkdir -p build
	$(IN_VENV)/hilum evaluate --images "$(DATA)" --cache build/cache --as-in-card \
	--json build/evaluation.json --html build/evaluation.html

check: $(VENV)/.test
	$(IN_VENV)/ruff format --check
	$(IN_VENV)/ruff check
	$(IN_VENV)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(IN_VENV)/python:
	@test -n "$(PYTHON)" || { echo "Hilum needs Python 3.11 or newer with venv, and finds none: \
	install it (Debian: apt install python3 python3-venv) or name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(IN_VENV)/python pyproject.toml constraints.txt
	$(IN_VENV)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(IN_VENV)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[torch,tracking,test]"
	touch $@
