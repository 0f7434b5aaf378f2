"""Commands that measure speed, parity with the originals, and behavior on faults."""
