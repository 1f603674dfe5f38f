# Each target sets itself up: nothing but Python 3.10–3.12 is assumed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test lint bench ablation ateb training results clean

# of the extras, quickstart itself needs synthetic alone
quickstart: $(STAMP)
	$(BIN)/python train.py recipe=quickstart

test: $(STAMP)
	OMP_NUM_THREADS=2 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

# Every committed sweep; points that results/ablation/runs holds are not run again.
SWEEPS := base frontend init all_languages loss llm prefix batches duplicates layer data units languages repeats bpe translations matryoshka sizes average adapters unit_adapters entry
ablation: $(STAMP)
	for sweep in $(SWEEPS); do $(BIN)/python train.py -m +sweep=$$sweep || exit 1; done
	$(BIN)/speechde report results/ablation/runs --out results/ablation --title "speechde: ablations on stamps"

# Every committed sweep of ATEB (docs/ateb.md); finished points are in results/ateb/runs.
ATEB := ateb_base ateb_mask ateb_ids ateb_answers ateb_shuffled ateb_arms
ateb: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[lora]'
	for sweep in $(ATEB); do $(BIN)/python train.py -m +sweep=$$sweep || exit 1; done
	$(BIN)/speechde results

# Every committed sweep about training (docs/sweeps.md); finished points are in results/training/runs.
TRAINING := training_base training_batches training_apart training_no_prompt training_prompts training_mined training_pairs training_bank training_pretraining training_stages training_steps
training: $(STAMP)
	mkdir -p negatives
	$(BIN)/speechde data manifest stamps --only-seen --out negatives/stamps.jsonl --overwrite
	$(BIN)/speechde negatives negatives/stamps.jsonl --model runs/quickstart_narrow/default-s0 -k 5 --count 3 --out negatives/mined.jsonl --overwrite
	$(BIN)/speechde negatives negatives/stamps.jsonl --candidates minimal-pairs --out negatives/pairs.jsonl --overwrite
	for sweep in $(TRAINING); do $(BIN)/python train.py -m +sweep=$$sweep || exit 1; done
	$(BIN)/speechde report results/training/runs --out results/training --title "speechde: questions about training, on stamps"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# One thread on both sides; 20 to 25 minutes of one core. Results: results/benchmarks, docs/performance.md.
bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m benchmarks
	$(BIN)/speechde results

results: $(STAMP)
	$(BIN)/speechde results

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 12) else f"error: Python {v[0]}.{v[1]} is not supported; set PYTHON=python3.12 (3.10 to 3.12)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) runs
