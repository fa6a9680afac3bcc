package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"weft/setup"
)

func migrateCommand() *cobra.Command {
	var from, to string
	cmd := &cobra.Command{
		Use: "migrate-database", Short: "Move a server from SQLite to PostgreSQL, where several processes can share it", Args: cobra.NoArgs,
		Long: `Move all that a server has (tables, media, signing key, settings) from a SQLite file to an empty PostgreSQL database. Stop the
server first. Every table is counted and hashed on both sides. Afterwards start the server with --database postgres://…; the SQLite file can
no more be opened by mistake. When something goes wrong, the SQLite file stays as it was.`,
		Example: "  weft migrate-database --server-name example.org --from sqlite:data/weft.db --to postgres://weft@db/weft",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if err := setup.MigrateDatabase(cmd.Context(), c, from, to, func(format string, args ...any) {
				fmt.Fprintf(out, format+"\n", args...) //nolint:errcheck // it is for whoever watches
			}); err != nil {
				return err
			}
			_, err = fmt.Fprintln(out, "Start the server with --database postgres://… from now on.")
			return err
		},
	}
	addConfigFlags(cmd)
	cmd.Flags().StringVar(&from, "from", "", "sqlite:PATH, the database to move")
	cmd.Flags().StringVar(&to, "to", "", "postgres://…, an empty database")
	for _, name := range []string{"from", "to"} {
		if err := cmd.MarkFlagRequired(name); err != nil {
			panic(err) // the flag is defined above
		}
	}
	return cmd
}
