"""The parts of `train.py`: data, tokenizer, prompts, teacher, student and export."""
