"""The text of an exposition as figures, by what they are called there."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def figures_of(text):
    """Every figure of *text*: `name` or `name{label="value"}`, labels in order -> its value."""
    return {
        _called(sample): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(metrics):
    """Every figure that *metrics* tell."""
    return figures_of(metrics.exposition("")[0].decode())


def _called(sample):
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def changes(before, after):
    """By how much each figure that changed is larger now; buckets are left out."""
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0) and "_bucket{" not in name
    }
