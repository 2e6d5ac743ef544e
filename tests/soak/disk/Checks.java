// What a Java machine computes alike everywhere, compiled here and run at once.
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicLong;
import java.util.stream.IntStream;

public class Checks {
    static long random = 88172645463325252L;

    static long next() {
        random ^= random << 13;
        random ^= random >>> 7;
        random ^= random << 17;
        return random;
    }

    static long sorted(int count) {
        long[] values = new long[count];
        for (int i = 0; i < count; i++) values[i] = next();
        Arrays.sort(values);
        long mix = 0;
        for (int i = 0; i < count; i++) mix = mix * 31 + (values[i] ^ i);
        return mix;
    }

    // Null pointers and divisions by zero are found by the processor's faults.
    static int faults(int rounds) {
        int caught = 0;
        for (int i = 0; i < rounds; i++) {
            try {
                int[] array = i % 3 == 0 ? null : new int[] { i };
                caught += array[0] / (i % 5) & 1;
            } catch (NullPointerException | ArithmeticException fault) {
                caught += 2;
            }
        }
        return caught;
    }

    static long threads(int count) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        ConcurrentHashMap<Integer, AtomicLong> sums = new ConcurrentHashMap<>();
        List<Future<Long>> parts = new ArrayList<>();
        for (int part = 0; part < 8; part++) {
            final int from = part * count;
            parts.add(pool.submit(() -> {
                long sum = 0;
                for (int i = from; i < from + count; i++) {
                    sums.computeIfAbsent(i % 97, key -> new AtomicLong()).addAndGet(i);
                    sum += Long.bitCount(i * 0x9e3779b97f4a7c15L);
                }
                return sum;
            }));
        }
        long total = 0;
        for (Future<Long> part : parts) total += part.get();
        pool.shutdown();
        long check = total;
        for (int key = 0; key < 97; key++) check = check * 131 + sums.get(key).get();
        return check;
    }

    static double floats(int rounds) {
        double x = 0.5;
        for (int i = 1; i < rounds; i++) x = Math.abs(Math.sqrt(x + i) - StrictMath.sin(x) * StrictMath.exp(-x)) % 3;
        return x;
    }

    static String texts(int count) {
        HashMap<String, Integer> counts = new HashMap<>();
        for (int i = 0; i < count; i++) counts.merge(Long.toString(next() & 1023, 36), 1, Integer::sum);
        return counts.size() + " " + counts.values().stream().mapToInt(Integer::intValue).max().getAsInt();
    }

    public static void main(String[] arguments) throws Exception {
        int n = Integer.parseInt(arguments[0]);
        random += n;
        System.out.println("sorted " + sorted(40000 + 8000 * n));
        System.out.println("faults " + faults(60000 + 10000 * n));
        System.out.println("threads " + threads(8000 + 1000 * n));
        System.out.println("floats " + floats(60000 + 5000 * n));
        System.out.println("texts " + texts(60000));
        System.out.println("stream " + IntStream.range(0, 200000).parallel().mapToLong(i -> (long) i * i % 1013).sum());
    }
}
