// Command bench is a load driver: it measures what a homeserver costs, any homeserver that is reached by URL, and checks every
// answer while it does.
//
//	go run ./test/bench --weft ./weft --scenario send,fanout
//	go run ./test/bench --target name=a,url=http://127.0.0.1:8008,pid=1234
//
// It is a command and no Go benchmark because the server has to be a process of its own: what counts is its CPU time, its
// memory and its disk, not how busy the driver is. Package load speaks the protocol, scenario holds what is done and checked,
// proc reads the costs, server starts servers, report shows the numbers.
package main
