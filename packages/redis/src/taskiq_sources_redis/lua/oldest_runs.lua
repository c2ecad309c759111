-- Counts history rows and tells which are the oldest. ARGV: how many. Returns the count, and members of RUNS_INDEX of kind r.
return {
  redis.call("ZLEXCOUNT", RUNS_INDEX, "[r", "(r:"), -- a colon comes after the digits of every time
  redis.call("ZRANGEBYLEX", RUNS_INDEX, "[r", "(r:", "LIMIT", 0, ARGV[1]),
}
