"""The parts of bench/suite."""
