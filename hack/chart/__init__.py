"""What `hack/generate_chart.py` makes: schema, README, copied files and raw manifests."""
