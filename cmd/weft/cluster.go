package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
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
		Use: "status", Short: "List the processes, what they run, how the work is shared and how much waits", Args: cobra.NoArgs,
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
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	addConfigFlags(status)
	status.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(status)
	return cmd
}

func printStatus(out io.Writer, s setup.Status) error {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "PROCESS\tSTATE\tSHARE\tVERSION\tADDRESS\tSTARTED\tCOMPONENTS") //nolint:errcheck // Flush tells
	for _, n := range s.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%.0f %%\t%s\t%s\t%s\t%s\n", n.ID[:8], n.State, 100*n.Share, n.Version, n.Address, //nolint:errcheck // Flush tells
			n.Started.UTC().Format(time.RFC3339), strings.Join(n.Components, ","))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := io.WriteString(out, "\n"+lagText(s.Lag))
	return err
}

// lagText tells what a server has yet to do, a line for each kind of work.
func lagText(l setup.Lag) string {
	var b strings.Builder
	staged := strconv.FormatInt(l.Staged, 10)
	if l.StagedMore {
		staged += " or more"
	}
	fmt.Fprintf(&b, "from other servers: %s events in %d rooms wait to be processed", staged, l.StagedRooms)
	if l.Staged > 0 {
		fmt.Fprintf(&b, ", the first for %s", time.Duration(l.StagedOldest*float64(time.Second)).Round(time.Second))
	}
	b.WriteString("\nto other servers:   ")
	if f := l.Federation; f != nil {
		fmt.Fprintf(&b, "%d positions of the event stream wait; %s servers are behind, %s of them failed the last time; %s EDUs wait",
			f.Positions, counted(f.Behind), counted(f.Failing), counted(f.EDUs))
	} else {
		b.WriteString("no process has sent anything yet")
	}
	b.WriteString("\nfor /sync:          ")
	switch f := l.Follower; {
	case f == nil:
		b.WriteString("no process has served it yet")
	case f.Fewer:
		fmt.Fprintf(&b, "at most %d positions of the event stream wait to be judged: so many may hold nothing to store", f.Positions)
	default:
		fmt.Fprintf(&b, "%d positions of the event stream wait to be judged", f.Positions)
	}
	b.WriteByte('\n')
	return b.String()
}

// counted shows a number that was counted up to a bound.
func counted(n int64) string {
	if n >= setup.CountMost {
		return fmt.Sprintf("%d or more", n)
	}
	return strconv.FormatInt(n, 10)
}
