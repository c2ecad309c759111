-- Counts history rows and tells which are the oldest. ARGV: how many. Returns the count, and members of RUNS_INDEX of kind r.
return {
  redis.call("ZLEXCOUNT", RUNS_INDEX, "[r", "(s"),
  redis.call("ZRANGEBYLEX", RUNS_INDEX, "[r", "(s", "LIMIT", 0, ARGV[1]),
}
