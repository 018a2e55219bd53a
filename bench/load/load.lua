-- wrk … -s load.lua URL -- BODY_FILE KEY: posts the body of the file; prints one line of JSON at the end, times in µs.
function init(args)
   local file = assert(io.open(args[1], "rb"))
   wrk.method = "POST"
   wrk.body = file:read("*a")
   file:close()
   wrk.headers["Authorization"] = "Bearer " .. args[2]
   wrk.headers["Content-Type"] = "application/json"
   wrk.headers["Accept"] = "application/json"
   wrk.headers["User-Agent"] = "bench/1.0"
end

function done(summary, latency, requests)
   local e = summary.errors
   io.write(string.format(
      'json: {"calls": %d, "duration_us": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "status_errors": %d, "socket_errors": %d, "timeouts": %d}\n',
      summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
      e.status, e.connect + e.read + e.write, e.timeout))
end
