package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"weft/test/bench/scenario"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errChecks ends a run in which something was not as it must be; the table says what.
var errChecks = errors.New("there were errors")

func command() *cobra.Command {
	o := options{sizes: scenario.DefaultSizes(), commandLine: commandLine(os.Args[1:])}
	cmd := &cobra.Command{
		Use: "bench", Short: "Measure homeservers", Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		Long: "Measure homeservers.\n\nScenarios, in their order:\n" + scenarioList(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.out, o.log = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return run(cmd.Context(), o)
		},
	}
	addTargetFlags(cmd.Flags(), &o)
	addSizeFlags(cmd.Flags(), &o.sizes)
	return cmd
}

func addTargetFlags(f *pflag.FlagSet, o *options) {
	f.StringArrayVar(&o.targets, "target", nil, "running server: url=URL[,name=…][,pid=…][,db-pid=…][,disk=SQLITE-FILE-OR-FOLDER][,db=postgres://…]\n"+
		"[,secret=REGISTRATION-SECRET][,server-name=…][,federation=HOST:PORT][,admin=URL-OF-PPROF]; repeatable")
	f.StringArrayVar(&o.wefts, "weft", nil, "[NAME=]BINARY of Weft to start in a temporary folder; repeatable")
	f.StringArrayVar(&o.commands, "command", nil, "NAME=COMMAND that starts the target NAME, such as 'a=exec ./server --port 8008'; repeatable")
	f.StringVar(&o.database, "database", "sqlite", "database of --weft: sqlite, postgres (a temporary cluster) or both")
	f.StringSliceVar(&o.scenarios, "scenario", nil, "scenarios to run; none: all")
	f.IntVar(&o.rounds, "rounds", 1, "how often everything is measured; targets take turns")
	f.StringVar(&o.profileDir, "profile", "", "folder for CPU and allocation profiles of each window")
	f.IntSliceVar(&o.nodes, "nodes", nil, "processes of --weft on one PostgreSQL; several numbers make several targets, such as 1,2,4")
	f.Float64Var(&o.cpus, "cpus", 0, "hold started servers, without their PostgreSQL, to as many processors (cgroup), each process of --nodes by itself")
	f.TextVar(&o.memory, "memory", o.memory, "hold started servers, without their PostgreSQL, to as much memory and no swap, such as 1GiB (cgroup)")
	f.StringVar(&o.cgroup, "cgroup", "", "group below which those for --cpus and --memory are made; empty: the root")
	f.IntVar(&o.gomaxprocs, "gomaxprocs", 0, "GOMAXPROCS of started servers; 0: they choose")
	f.StringVar(&o.authorityFolder, "authority", "", "folder of ca.crt and ca.key, made if missing, which sign the synthetic remote server's certificate:\n"+
		"a --target that is to be measured over federation has to trust ca.crt")
	f.IntVar(&o.servers, "remote-servers", 8, "names of servers that the members of remote rooms are of")
	f.StringVar(&o.jsonFile, "json", "", "file for everything in JSON")
	f.StringVar(&o.tableFile, "table", "", "file for the table in Markdown")
}

func addSizeFlags(f *pflag.FlagSet, s *scenario.Sizes) {
	number := func(at *int, name, usage string) { f.IntVar(at, name, *at, usage) }
	number(&s.Senders, "senders", "send: users who send at the same time")
	number(&s.Rooms, "rooms", "send: rooms, each with all senders in it")
	number(&s.Messages, "messages", "send: messages in all")
	number(&s.ContentBytes, "content", "bytes of a message's content")
	number(&s.LatencyMessages, "latency-messages", "latency: messages")
	number(&s.FewRooms, "few-rooms", "sync-few: rooms of the user")
	number(&s.ManyRooms, "many-rooms", "sync-many: rooms of the user")
	number(&s.InitialSyncs, "initial-syncs", "sync-few: initial syncs; of many rooms there are fewer")
	number(&s.EmptySyncs, "empty-syncs", "syncs with nothing new")
	number(&s.OneSyncs, "one-syncs", "syncs with one new event")
	number(&s.CreateRooms, "create-rooms", "create-room: rooms")
	number(&s.JoinRooms, "join-rooms", "join: rooms")
	number(&s.JoinUsers, "join-users", "join: users, each of whom joins every room")
	number(&s.FanoutUsers, "fanout-users", "fanout: waiting users")
	number(&s.FanoutMessages, "fanout-messages", "fanout: messages")
	number(&s.HistoryMessages, "history-messages", "history: messages in the room")
	number(&s.HistoryReaders, "history-readers", "history: users who read all of it")
	number(&s.KeyUsers, "key-users", "keys: users with one device each")
	number(&s.MediaFiles, "media-files", "media: files")
	number(&s.MediaBytes, "media-bytes", "media: bytes of a file")
	number(&s.OverloadRequests, "overload-requests", "overload: requests at the same time")
	number(&s.RemoteMembers, "remote-members", "remote-join, inflow, outflow: members of the room")
	number(&s.RemoteMany, "remote-many", "remote-join-many: members of the room")
	number(&s.RemoteEvents, "remote-events", "inflow: events")
	number(&s.RemoteMessages, "remote-messages", "outflow: messages")
	number(&s.ScaleRooms, "scale-rooms", "scale: rooms")
	number(&s.ScaleUsers, "scale-users", "scale: users, each in a few of the rooms")
	number(&s.ScaleRequests, "scale-requests", "scale: requests at the same time, for each process of the server")
	f.DurationVar(&s.ScaleTime, "scale-time", s.ScaleTime, "scale: time of each kind of request")
	f.DurationVar(&s.Idle, "idle", s.Idle, "idle: time of watching")
}
