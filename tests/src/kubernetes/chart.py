"""Renders a Helm chart by Helm's own engine: chart.py CHART NAMESPACE VALUES, and the texts as JSON."""

import json
import sys

import helm_python as helm

chart, namespace, values = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
found = helm.lint(chart, values, strict=True)
# 2 is a warning.
wrong = [it for it in found["messages"] if it["severity"] >= 2]
if wrong or found["errors"]:
    sys.exit(f"{wrong} {found['errors']}")
with helm.Chart.load(chart) as loaded:
    loaded.validate_schema(values)
    print(json.dumps(loaded.render(values, name="oomtrace", namespace=namespace)))
