"""Losses: functions of tensors that return a scalar."""
