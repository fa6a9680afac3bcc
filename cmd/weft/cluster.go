package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft/setup"
)

func clusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "Look at the processes that share a database"}
	var asJSON bool
	status := &cobra.Command{
		Use: "status", Short: "List the processes, what they run and how the work is shared", Args: cobra.NoArgs,
		Example: "  weft cluster status --database postgres://…",
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			s, err := setup.ClusterStatus(cmd.Context(), &c)
			if err != nil {
				return err
			}
			if asJSON {
				e := json.NewEncoder(cmd.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(s)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "PROCESS\tSTATE\tSHARE\tVERSION\tADDRESS\tSTARTED\tCOMPONENTS") //nolint:errcheck // Flush tells
			for _, n := range s.Nodes {
				fmt.Fprintf(w, "%s\t%s\t%.0f %%\t%s\t%s\t%s\t%s\n", n.ID[:8], n.State, 100*n.Share, n.Version, n.Address, //nolint:errcheck // Flush tells
					n.Started.UTC().Format(time.RFC3339), strings.Join(n.Components, ","))
			}
			if err := w.Flush(); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nevents of other servers that wait to be processed: %d in %d rooms\n", s.Staged, s.StagedRooms)
			return err
		},
	}
	addConfigFlags(status)
	status.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(status)
	return cmd
}
