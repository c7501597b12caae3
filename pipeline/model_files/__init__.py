"""What a model's files say: config.json, tables of tensors, sampling. Holds no tensor."""
