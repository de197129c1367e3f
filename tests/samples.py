"""The samples of the metrics, by their names and labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def samples_in(text):
    """Every sample of *text*: `name` or `name{label="value"}`, labels in order -> its value."""
    return {
        _named(sample): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def samples_of(metrics):
    """Every sample of *metrics*."""
    return samples_in(metrics.exposition("")[0].decode())


def _named(sample):
    labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
    return f"{sample.name}{{{labels}}}" if labels else sample.name


def changes(before, after):
    """The difference of each sample that changed; buckets are left out."""
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0) and "_bucket{" not in name
    }
