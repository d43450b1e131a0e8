"""tunelab: which way of fine-tuning is worth it on my model, my data and my hardware?"""

__version__ = "0.1.0"
