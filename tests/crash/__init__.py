"""Crashes, power cuts, full disks and interrupts, with real processes and real files."""
