"""What `train.py` is made of: data, tokenizer, prompts, teacher, student, export."""
