"""What the pytest plugin is made of; `greenio.pytest_plugin` has the hooks and the fixtures."""
