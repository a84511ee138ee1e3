"""What is trained of a model, one choice per file: `(model, generator, *, ...) -> frozen modules`, whose BatchNorms keep
their statistics. The rest of the model takes gradients; random numbers come from the generator alone."""
