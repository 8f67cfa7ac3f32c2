"""No code of this repository runs or fetches what a stranger wrote."""

from __future__ import annotations

from pathlib import Path

import pytest
from unsafe_calls import unsafe

pytestmark = pytest.mark.security
ROOT = Path(__file__).parents[2]
OURS = ("fashion_dml", "jobs", "serve", "cluster", "tests")

CAUGHT = [
    "import pickle\npickle.load(f)", "import pickle as p\np.loads(b)", "from pickle import loads\nloads(b)",
    "import cloudpickle\ncloudpickle.loads(b)", "from pickle import Unpickler as U\nU(f)", "import joblib\njoblib.load(f)",
    "import shelve\nshelve.open(f)", "import marshal\nmarshal.loads(b)", "import torch\ntorch.load(f)",
    "import torch\ntorch.load(f, weights_only=False)", "import torch\ntorch.load(f, weights_only=safe)",
    "from torch import load\nload(f)", "import numpy as np\nnp.load(f, allow_pickle=True)",
    "import numpy as np\nnp.load(f, allow_pickle=flag)", "import pandas as pd\npd.read_pickle(f)",
    "import yaml\nyaml.load(s)", "import yaml\nyaml.load(s, Loader=yaml.Loader)",
    "import yaml\nyaml.load(s, yaml.FullLoader)", "import yaml\nyaml.unsafe_load(s)",
    "from yaml import full_load\nfull_load(s)", "eval(s)", "exec(s)", "import builtins\nbuiltins.eval(s)",
    "import subprocess\nsubprocess.run(s, shell=True)", "import subprocess as sp\nsp.Popen(s, shell=flag)",
    "from subprocess import check_output\ncheck_output(s, shell=1)", "import os\nos.system(s)", "import os\nos.popen(s)",
    "import asyncio\nasyncio.create_subprocess_shell(s)", "def f():\n    import pickle\n    return pickle.loads(b)",
    "import pickle\nmap(pickle.loads, b)", "from pickle import loads\nmap(loads, b)",
]  # fmt: skip
FETCHING = [
    "import urllib.request", "from urllib.request import urlopen", "from urllib import request", "import requests",
    "import requests.adapters", "import httpx", "from aiohttp import ClientSession", "import http.client",
    "from http import client", "def f():\n    import httpx",
]  # fmt: skip
HARMLESS = [
    "import torch\ntorch.load(f, weights_only=True)", "import numpy as np\nnp.load(f)",
    "import numpy as np\nnp.load(f, allow_pickle=False)", "import yaml\nyaml.load(s, Loader=yaml.SafeLoader)",
    "import yaml\nyaml.safe_load(s)", "import json\njson.loads(s)", "model.eval()",
    "import subprocess\nsubprocess.run(['ls'])", "import subprocess\nsubprocess.run(['ls'], shell=False)",
    "import re\nre.compile(s)", "from urllib.parse import quote", "store.load(f)", "import http",
    "import pickle\npickle.loads(pickle.dumps(plan))",
]  # fmt: skip


@pytest.mark.parametrize("source", CAUGHT)
def test_each_unsafe_call_is_caught(source: str) -> None:
    assert len(list(unsafe(source))) == 1


@pytest.mark.parametrize("source", FETCHING)
def test_each_way_to_fetch_is_caught(source: str) -> None:
    assert list(unsafe(source, may_fetch=False))
    assert not list(unsafe(source))


@pytest.mark.parametrize("source", HARMLESS)
def test_harmless_code_is_left_alone(source: str) -> None:
    assert not list(unsafe(source, may_fetch=False))


def test_there_is_none_in_the_repository() -> None:
    files = [path for package in OURS for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 100
    found = [
        f"{path.relative_to(ROOT)}:{what}"
        for path in files
        for what in unsafe(path.read_text(), may_fetch=path.relative_to(ROOT).parts[0] != "serve")
    ]
    assert found == []
