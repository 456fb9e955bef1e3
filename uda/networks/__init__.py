"""Networks: settings become a network, a model file keeps it."""
