"""The parts of tools/traffic_gen.py."""
