"""Run the Python of a page of docs/ against a server, and print some of the names that it made as one JSON object.

run_page.py URL KEY PAGE NAME ...: blocks of the language `py` run in order, with that server's address and key in them.
"""

import json
import os
import re
import sys
import tempfile
from pathlib import Path

url, key, page, *names = sys.argv[1:]
os.environ |= {"DSPY_CACHEDIR": tempfile.mkdtemp(), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
blocks = re.findall(r"^```py\n(.*?)^```", Path(page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
source = "\n".join(blocks).replace("http://127.0.0.1:8484/v1", url).replace('api_key="none"', f"api_key={key!r}")
made = {}
exec(compile(source, page, "exec"), made)
print(json.dumps({name: made[name] for name in names}, default=vars))
