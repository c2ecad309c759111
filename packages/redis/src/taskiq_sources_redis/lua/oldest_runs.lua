-- Counts history rows and tells which are the oldest. ARGV: how many. Returns the count, and members of RUN_TIMES.
return {
  redis.call("ZCARD", RUN_TIMES),
  redis.call("ZRANGEBYLEX", RUN_TIMES, "-", "+", "LIMIT", 0, ARGV[1]),
}
