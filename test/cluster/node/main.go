// Command node is the server for tests of bad weather: weft serve with faults that cannot be made from outside a process. It takes
// the options of weft serve as --name=value, and from the environment
//
//	WEFT_TEST_SKEW  how far its clock is ahead, such as 1m or -1m
//	WEFT_TEST_DROP  which part of the bus messages of other processes is lost, such as 0.33
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"weft/setup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "node:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	sources := setup.Sources{Environ: os.Environ(), Flags: map[string][]string{}}
	for _, arg := range args {
		name, value, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		if !ok {
			return fmt.Errorf("%q is not --name=value", arg)
		}
		sources.Flags[name] = append(sources.Flags[name], value)
	}
	cfg, err := setup.Load(sources)
	if err != nil {
		return err
	}
	opts := setup.RunOptions{Version: "test", Reload: func(base setup.Config) (setup.Config, error) { return setup.LoadOver(base, sources) }}
	if err := faults(&opts); err != nil {
		return err
	}
	server, err := setup.Run(ctx, cfg, opts)
	if err != nil {
		return err
	}
	return server.Wait()
}

// faults sets what the environment asks for.
func faults(opts *setup.RunOptions) error {
	if v := os.Getenv("WEFT_TEST_SKEW"); v != "" {
		skew, err := time.ParseDuration(v)
		if err != nil {
			return fmt.Errorf("WEFT_TEST_SKEW: %w", err)
		}
		opts.Now = func() time.Time { return time.Now().Add(skew) }
	}
	if v := os.Getenv("WEFT_TEST_DROP"); v != "" {
		part, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return fmt.Errorf("WEFT_TEST_DROP: %w", err)
		}
		opts.DropBus = func(string) bool { return rand.Float64() < part }
	}
	return nil
}
