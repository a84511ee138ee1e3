"""The vocabulary: threat models, classifiers, losses, gradients, records and plug-ins. Imports nothing else of ours."""
