package main

import (
	"os"

	"github.com/spf13/cobra"

	"weft/setup"
)

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the server", Args: cobra.NoArgs,
		Example: "  weft serve --server-name localhost --registration open",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			return serve(cmd, c)
		},
	}
	addConfigFlags(cmd)
	return cmd
}

// serve runs a server until the command's context ends.
func serve(cmd *cobra.Command, c setup.Config) error {
	if err := setup.SetMemoryLimit(&c); err != nil {
		return err
	}
	if err := setup.SetProcessors(); err != nil {
		return err
	}
	log, err := setup.NewLogger(c.Log, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	go setup.ReturnMemory(cmd.Context(), log)
	server, err := setup.Run(cmd.Context(), c, setup.RunOptions{Log: log, Version: version(), Verify: os.Getenv("WEFT_VERIFY") == "1",
		Reload: func(base setup.Config) (setup.Config, error) {
			s, err := sources(cmd)
			if err != nil {
				return setup.Config{}, err
			}
			return setup.LoadOver(base, s)
		}})
	if err != nil {
		return err
	}
	return server.Wait()
}
