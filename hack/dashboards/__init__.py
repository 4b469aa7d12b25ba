"""The dashboards of manifests/dashboards, as a typed description.

`hack/generate_dashboards.py` writes them. `description.py` says what one is made of; `rows/`
has one module for each row; `render.py` turns them into Grafana's format.
"""
