"""What training and scoring a language model needs: token ids, batches, sampling, prompts shared by replies."""
