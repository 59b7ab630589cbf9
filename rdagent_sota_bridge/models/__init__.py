"""A recorded model used again: trained with one change, or its predictions made anew; without any LLM."""
