"""Small models of odd sizes for `step.cpp`, from memory (test_reader) and from a folder (test_step)."""

SMALL = dict(vocab_size=90, hidden_size=20, num_hidden_layers=3, num_attention_heads=4, head_dim=6,
             partial_rotary_factor=1 / 3, num_experts=5, moe_intermediate_size=9, router_hidden_size=7, pad_token_id=0,
             bos_token_id=1, eos_token_id=2)
SLIDING = dict(layer_types=["hybrid", "hybrid_sliding", "hybrid"], sliding_window=4)
SHAPES = [{}, dict(num_attention_heads=6, num_key_value_heads=3, head_dim=4, partial_rotary_factor=1.0),
          dict(cca_time0=3, cca_time1=2), dict(cca_time0=1, cca_time1=4), dict(num_key_value_heads=1, hidden_size=37),
          SLIDING, dict(attention_bias=True, lm_head_bias=True, tie_word_embeddings=False), dict(num_experts=1)]
