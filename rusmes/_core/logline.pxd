"""What every log line has: functions only, nothing to lay out."""
