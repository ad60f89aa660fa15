"""What training and scoring a language model needs: tokens, batches, sampling."""
