"""The rollout assistant: look at a canary, judge it by its metrics, promote or abort it."""
