# The few verbs of the house. `python` is the environment's: python3 -m venv .venv
# && .venv/bin/pip install -e '.[test]'.
python := if path_exists(".venv/bin/python") == "true" { ".venv/bin/python" } else { "python3" }

# check and test
default: check test

# lint, format and types, changing nothing
check:
    {{python}} -m ruff check .
    {{python}} -m ruff format --check .
    {{python}} -m mypy

# the tests; `just test -m 'not slow'` adds those with outside programs
test *args:
    {{python}} -m pytest {{args}}

# repair what can be repaired
fix:
    {{python}} -m ruff check --fix .
    {{python}} -m ruff format .

# the speed budgets, by themselves
bench *args:
    {{python}} -m pytest -m slow {{args}}

# a short run to look at
show *args:
    {{python}} -m ghosttrain run --runs 1 {{args}}

# every command, event and preset is documented, and the examples run
docs:
    {{python}} -m pytest tests/test_docs.py
